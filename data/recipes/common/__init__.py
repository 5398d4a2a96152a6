"""What all recipes share: folders, arguments and runs; and the cards of what was made."""
