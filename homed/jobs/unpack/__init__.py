"""Unpacks archives that anybody may have made: nothing comes to lie outside the folder, and no bomb goes off."""
