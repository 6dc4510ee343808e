"""Requests to stop: at once, or when the body of a step looks."""

import os
import signal

import pytest

from udon_jax import cli, errors, stopping


def ask(number=signal.SIGTERM):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_once_where_nothing_is_to_be_saved(number):
  before = signal.getsignal(number)
  with pytest.raises(errors.StoppedError, match="why"), stopping.noted("why"):
    ask(number)
    raise AssertionError("goes on")
  assert signal.getsignal(number) is before


def test_nobody_who_handles_failures_holds_it_up():
  with pytest.raises(errors.StoppedError), stopping.noted():
    try:
      ask()
    except Exception:
      raise AssertionError("taken for a failure") from None


def test_deferred_until_the_body_looks():
  with (
    stopping.noted() as stop,
    pytest.raises(ZeroDivisionError),
    stop.deferred(),
  ):
    assert not stop.requested
    ask()
    assert stop.requested
    1 / 0  # noqa: B018


def test_a_request_that_the_body_missed_comes_at_its_end():
  done = []
  with stopping.noted() as stop, pytest.raises(errors.StoppedError):
    with stop.deferred():
      ask()
      done.append("body")
    done.append("what follows")
  assert done == ["body"]


def test_a_second_interruption_is_python_s():
  with (
    stopping.noted() as stop,
    pytest.raises(KeyboardInterrupt),
    stop.deferred(),
  ):
    ask(signal.SIGINT)
    ask(signal.SIGINT)


@pytest.mark.parametrize(
  "end", [KeyboardInterrupt(), errors.StoppedError("stopped")]
)
def test_a_command_line_that_is_stopped_says_so_in_one_line(
  end, monkeypatch, capsys
):

  def run(*_, **__):
    raise end

  monkeypatch.setattr(cli, "_set_up_logging", lambda: None)
  monkeypatch.setattr(cli.app, "run", run)
  with pytest.raises(SystemExit) as caught:
    cli.run(lambda _: None)
  assert caught.value.code == cli.EXIT_STOPPED
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: ")
