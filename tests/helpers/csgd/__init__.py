"""Steps of C-SGD, and its formula."""
