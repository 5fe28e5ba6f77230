"""What several functions use: requests to other people's services, and the secrets that those ask for."""
