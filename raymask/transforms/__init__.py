"""What is done to images: augmentation in training, views in prediction."""
