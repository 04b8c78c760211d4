"""A blog: authors, posts in categories and tags, threaded comments."""
