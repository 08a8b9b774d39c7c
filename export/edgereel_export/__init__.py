"""The export side of Edgereel: trained PyTorch stages to a cascade folder."""
