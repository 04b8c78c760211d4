"""An app of the tests, on shards only, with nothing but migrations: for runs of `migrate`."""
