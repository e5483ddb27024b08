"""What must hold on a card: each test runs over the stand-in always, and with `-m gpu` on CUDA."""
