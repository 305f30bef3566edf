"""The conformance suite: tests of what every storage and every session engine must do.

Use it if you write a storage or an engine of your own. `StorageContract`, `EngineContract` and
`RequestContract` are plain classes for pytest and for ``unittest``. Each of them calls the blocking
methods, and their async twins if ``awaited`` is true::

    class TestMyStorage(StorageContract):
        @pytest.fixture(autouse=True)
        def _storage(self):
            self.storage = MyStorage(...)

    class TestMyStorageAsync(TestMyStorage):
        awaited = True

    class TestMyEngine(EngineContract):
        SessionStore = my_engine.SessionStore

    class TestMyEngineInRequests(RequestContract):
        SessionStore = my_engine.SessionStore

    class TestMyEngineInRequestsUnderAnotherMiddleware(TestMyEngineInRequests):
        SessionMiddleware = middleware.SessionMiddleware

The store must be reachable. Give the tests of a storage an empty one for each test, because they
count what they purge and list. Do not wrap a test in a transaction, because some tests write from
threads. The tests of a capability that a storage declares not to have are skipped, with the reason.

The tests run under the default options, except for those that say where sessions are stored, so
that the settings of a project do not change what they find. See `neutral_settings`.
"""
