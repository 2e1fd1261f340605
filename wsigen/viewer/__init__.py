"""The viewer: slides and pairs as DeepZoom tiles, and the page that shows them."""
