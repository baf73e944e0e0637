"""What is measured on training images and kept in a checkpoint's facts."""
