"""
A Flask application that lets in whom latchkey knows, by Flask-JWT-Extended and PyJWT (Debian: python3-python-flask-jwt-extended,
python3-cryptography).

/reports checks the signature here, by the keys that latchkey publishes: no call per request, and a logout is noticed when the token
expires. /transfers asks latchkey about each token besides: a logout is noticed at once.
"""

import json
import os
from base64 import b64encode
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from flask import Flask, abort, jsonify, request
from flask_jwt_extended import JWTManager, get_jwt, jwt_required
from jwt import PyJWKClient
from jwt.exceptions import PyJWKClientError

ISSUER = os.environ["ISSUER"]
CLIENT_ID = os.environ["CLIENT_ID"]
CLIENT_SECRET = os.environ["CLIENT_SECRET"]

app = Flask(__name__)
app.config.update(
    JWT_ALGORITHM="ES256",
    JWT_DECODE_ALGORITHMS=["ES256", "RS256", "EdDSA"],
    JWT_DECODE_ISSUER=ISSUER,
    JWT_DECODE_AUDIENCE=ISSUER,
    JWT_TOKEN_LOCATION=["headers"],
)
jwt = JWTManager(app)
# Fetched once in a while, and whenever a token names a key that is not among them.
keys = PyJWKClient(f"{ISSUER}/.well-known/jwks.json", lifespan=300)


@jwt.decode_key_loader
def find_key(header, _claims):
    return keys.get_signing_key(header.get("kid")).key


@app.errorhandler(OSError)
@app.errorhandler(PyJWKClientError)
def no_key(error):
    if isinstance(error.__context__ or error, OSError):
        return jsonify(msg="The keys cannot be fetched"), 503
    return jsonify(msg="Unknown key"), 401


def is_active(token):
    """Asks latchkey (RFC 7662). Whatever is not a clear answer lets nobody in."""
    credentials = b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
    question = Request(
        f"{ISSUER}/oauth2/introspect",
        data=urlencode({"token": token}).encode(),
        headers={"Authorization": f"Basic {credentials}"},
    )
    try:
        with urlopen(question, timeout=2) as answer:
            return json.load(answer)["active"] is True
    except OSError:
        abort(503)


@app.get("/reports")
@jwt_required()
def reports():
    return jsonify(sub=get_jwt()["sub"])


@app.get("/transfers")
@jwt_required()
def transfers():
    if not is_active(request.headers["Authorization"].split()[1]):
        abort(401)
    return jsonify(sub=get_jwt()["sub"], roles=get_jwt().get("roles", []))


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]))
