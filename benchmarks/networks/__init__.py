"""Networks of timm and torchvision to try: the smallest of each class, at small image sizes."""
