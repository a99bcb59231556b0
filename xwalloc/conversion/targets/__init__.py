"""What stores are exported to: formats that are read without xwalloc."""
