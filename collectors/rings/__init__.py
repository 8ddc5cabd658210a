"""Ring files: how the collector reads what libraries and plugins inside other processes have written down."""
