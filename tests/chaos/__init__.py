"""Everything is killed, frozen and spoilt at random, and every promise is checked afterwards."""
