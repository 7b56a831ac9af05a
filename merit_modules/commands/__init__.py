"""The console command ``merit`` and its subcommands, one file each."""
