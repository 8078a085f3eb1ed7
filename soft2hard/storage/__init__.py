"""Files and folders that appear whole, and the hub."""
