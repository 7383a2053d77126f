"""All that touches a device happens on one thread, in order; what goes wrong there is raised here."""

from __future__ import annotations

import threading

import pytest

from aprtui.engine.cuda.device_thread import DeviceThread


def test_all_calls_run_on_one_other_thread() -> None:
    thread = DeviceThread()
    seen = {thread.run(threading.get_ident) for _ in range(5)}
    thread.close()
    assert len(seen) == 1
    assert threading.get_ident() not in seen


def test_results_and_errors_come_back_and_the_thread_goes_on() -> None:
    thread = DeviceThread()
    assert thread.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        thread.run(divmod, 7, 0)
    assert thread.run(int, "11", base=2) == 3
    thread.close()
    thread.close()


def test_closing_waits_for_what_was_given_before() -> None:
    thread = DeviceThread()
    order: list[str] = []
    gate = threading.Event()

    def job() -> None:
        gate.wait(5)
        order.append("job")

    waiting = threading.Thread(target=lambda: thread.run(job))
    waiting.start()
    threading.Timer(0.05, gate.set).start()
    while thread._jobs.empty() and not gate.is_set():
        pass
    thread.close()
    order.append("closed")
    waiting.join()
    assert order == ["job", "closed"]
