"""A locustfile whose web UI asks for a login, as Locust's documentation says: any name and the password "locust"."""

import os

from flask import Blueprint, redirect, request, session, url_for
from flask_login import UserMixin, login_user
from locust import events

from fineserve_shapes.shapes import ReplayShape
from fineserve_shapes.users import CompletionUser


class Replay(ReplayShape):
    pass


class Completions(CompletionUser):
    pass


class Someone(UserMixin):
    def __init__(self, name):
        self.id = name


@events.init.add_listener
def add_login(environment, **_kwargs):
    web_ui = environment.web_ui
    if web_ui is None:
        return
    web_ui.app.secret_key = os.urandom(16)
    web_ui.login_manager.user_loader(Someone)
    base = web_ui.app.blueprints["locust"].url_prefix or ""
    web_ui.auth_args = {"username_password_callback": f"{base}/login_submit"}
    pages = Blueprint("auth", __name__, url_prefix=base)

    @pages.route("/login_submit", methods=["POST"])
    def login_submit():
        if request.form.get("password") == "locust":
            login_user(Someone(request.form.get("username")))
            return redirect(url_for("locust.index"))
        session["auth_error"] = "wrong password"
        return redirect(url_for("locust.login"))

    web_ui.app.register_blueprint(pages)
