"""Networks that the method is compared with, one file each."""
