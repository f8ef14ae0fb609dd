"""What C-SGD is compared with: removal, widths by loss, rows by Fisher information."""
