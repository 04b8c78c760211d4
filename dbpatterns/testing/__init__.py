"""What a project's own tests may use; nothing here is imported by anything else."""
