"""The demo project: a blog and a bank, on every pattern of dbpatterns."""
