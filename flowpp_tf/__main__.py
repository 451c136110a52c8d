"""`python -m flowpp_tf COMMAND`: the commands without installed scripts."""

from flowpp_tf.programs.commands import main

if __name__ == "__main__":
  main()
