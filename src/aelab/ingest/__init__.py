"""Sources of images: downloads of published data sets, drawn shapes, and folders of image files."""
