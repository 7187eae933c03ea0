"""The vision-language night head: what adapts a detector to unlabelled night images by its own regions."""
