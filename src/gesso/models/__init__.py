"""Network architectures, one a file: a frozen config and a module. They know neither files nor samplers."""
