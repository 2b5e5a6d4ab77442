"""``python -m sb3_snd`` is the console command ``sb3-snd``. Knows its main function only."""

from sb3_snd.cli import main

if __name__ == "__main__":
    main()
