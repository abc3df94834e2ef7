"""Never gets to its function."""

import time

while True:
    time.sleep(0.1)
