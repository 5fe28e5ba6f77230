"""Code for several functions: requests to other people's services, and the secrets for them."""
