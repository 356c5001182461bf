"""Whole federations of real processes. One cluster serves every test here that leaves it whole."""
