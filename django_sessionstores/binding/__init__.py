"""Sessions that are bound to a device: the protocol, without Django.

Device Bound Session Credentials (https://w3c.github.io/webappsec-dbsc/): a browser makes a key pair
that does not leave the device. It proves again and again that it has the private key, and gets a
cookie that is valid for minutes each time. Who has copied the cookies gets no new one.
"""
