"""Pulls rows out of somebody's REST API: checks it, plans requests, puts the rows of each page on the stream."""
