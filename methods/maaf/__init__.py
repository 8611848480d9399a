"""MAAF (Dodds et al., 2020): places of a picture and words of a text attend to each other."""
