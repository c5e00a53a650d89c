"""The names and types of DLRover that training code uses, with the spool behind them."""
