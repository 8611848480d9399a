"""Search results as pages and pictures, and the local web page behind `bench serve`."""
