"""The demo as a person uses it: real gunicorn, real machines, a real headless Chromium."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import psutil
import pytest
import requests
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

WAIT = 30.0
CHROMIUM = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=390,844"
)


class Demo:
    """`python -m demo`, running."""

    def __init__(self, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "demo", "--port", str(self.port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()
        self.url = f"http://127.0.0.1:{self.port}/"

    def web_processes(self):
        """Those that gunicorn has forked."""
        (arbiter,) = [p for p in psutil.Process(self.process.pid).children() if "gunicorn" in " ".join(p.cmdline())]
        return arbiter.children()

    @contextlib.contextmanager
    def frozen_machines(self):
        """No machine starts or runs meanwhile."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        frozen = [p for p in family if {"flyexecutor.local.server", "flyexecutor.worker"} & set(p.cmdline())]
        assert frozen
        for process in frozen:
            process.suspend()
        try:
            yield
        finally:
            for process in frozen:
                process.resume()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.stdout.close()
        return self.process.wait(WAIT)


@pytest.fixture(scope="module", params=["", "--preload"], ids=["plain", "preload"])
def demo(request):
    demo = Demo(*request.param.split())
    yield demo
    family = psutil.Process(demo.process.pid).children(recursive=True)
    assert demo.stop() == 0
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


def test_a_proxy_that_this_computer_is_told_of_is_not_asked_for_its_own_pages(monkeypatch, closed_port):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port}")
    demo = Demo()
    assert demo.line == f"Demo: {demo.url}\n"
    assert demo.stop() == 0


@pytest.fixture
def browser():
    options = Options()
    options.binary_location = shutil.which("chromium") or ""  # elsewhere selenium looks for a Chrome
    for argument in CHROMIUM.split():
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


class Visitor:
    """Somebody without JavaScript: a session of requests."""

    def __init__(self, demo):
        self.demo = demo
        self.session = requests.Session()

    def close(self):
        self.session.close()

    def page(self):
        return self.session.get(self.demo.url, timeout=WAIT).text

    def send(self, to="ann@example.com", subject="Hello", body="It works."):
        (token,) = re.findall(r'name="csrf_token"[^>]*value="([^"]+)"', self.page())
        form = {"csrf_token": token, "to": to, "subject": subject, "body": body}
        return self.session.post(self.demo.url, data=form, allow_redirects=False, timeout=WAIT)

    def mails(self):
        with contextlib.suppress(requests.ConnectionError):  # a killed web process takes its connections with it
            return self._mails()
        return self._mails()

    def _mails(self):
        return self.session.get(f"{self.demo.url}mails.json", timeout=WAIT).json()["mails"]

    def wait_until_sent(self):
        while any(mail["status"] in {"PENDING", "SENDING", "UNKNOWN"} for mail in self.mails()):
            pass  # the page's own way; pytest's time-out ends it
        return self.mails()


@pytest.fixture
def make_visitor(demo):
    made = []

    def make():
        made.append(Visitor(demo))
        return made[-1]

    yield make
    for visitor in made:
        visitor.close()


@pytest.mark.browser
def test_a_mail_goes_from_pending_to_sent_by_itself_and_is_in_the_mailbox(demo, browser):
    browser.get(demo.url)
    subject = f"Hello from {demo.port}"
    for name, text in (("to", "ann@example.com"), ("subject", subject), ("body", "It works.")):
        browser.find_element(By.NAME, name).send_keys(text)
    with demo.frozen_machines():
        browser.find_element(By.CSS_SELECTOR, "#form button").click()
        status = WebDriverWait(browser, WAIT).until(lambda b: b.find_element(By.CSS_SELECTOR, "#list .status"))
        assert status.text == "PENDING"
        browser.execute_script("window.stays = true")  # from here on nothing may reload the page
    WebDriverWait(browser, WAIT, 0.05).until(lambda _: status.text == "SENT")
    assert browser.execute_script("return window.stays")
    browser.get(f"{demo.url}mailbox")
    assert subject in browser.find_element(By.TAG_NAME, "main").text


def test_it_prints_one_line_with_its_address(demo):
    assert demo.line.split()[-1] == demo.url


def test_all_of_it_listens_to_this_computer_alone(demo):
    process = psutil.Process(demo.process.pid)
    sockets = [one for p in (process, *process.children(recursive=True)) for one in p.net_connections("inet")]
    listening = {one.laddr for one in sockets if one.status == psutil.CONN_LISTEN}
    assert len(listening) >= 4, "the page, the mailbox, the Machines API and Redis"
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_without_javascript_the_page_tells_the_state_too(make_visitor):
    visitor = make_visitor()
    answer = visitor.send()
    assert answer.status_code == 303
    visitor.wait_until_sent()
    assert re.search(r'data-status="SENT"', visitor.page())


def test_a_mail_that_is_refused_says_why(make_visitor):
    visitor = make_visitor()
    visitor.send(to="refused@example.com")
    (mail,) = visitor.wait_until_sent()
    assert mail["status"] == "FAILED"
    assert "invalid email address" in mail["note"]


def test_nobody_sees_the_mail_of_another_session(make_visitor):
    one, other = make_visitor(), make_visitor()
    one.send(subject="only mine")
    assert [mail["subject"] for mail in one.mails()] == ["only mine"]
    assert other.mails() == []
    assert "only mine" not in other.page()


def test_killing_the_web_processes_between_submit_and_result_loses_nothing(demo, make_visitor):
    visitor = make_visitor()
    with demo.frozen_machines():
        visitor.send(subject="survives")
        for process in demo.web_processes():
            process.kill()
        # One that is awake has been handed the call, and can't read it.
        assert [mail["status"] for mail in visitor.mails()] in (["PENDING"], ["SENDING"])
    (mail,) = visitor.wait_until_sent()
    assert (mail["subject"], mail["status"]) == ("survives", "SENT")


def test_a_port_that_is_taken_is_told_in_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = subprocess.run(
            [sys.executable, "-m", "demo", "--port", port], capture_output=True, text=True, timeout=WAIT, check=False
        )
    assert ran.returncode == 1
    assert port in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
