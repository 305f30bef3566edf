"""The simulation: whole requests run against each other call by call, and a model judges them.

Use it to find out whether a storage of your own keeps its promises when requests overlap, stores
fail, transactions are rolled back and processes die. Everything runs in one thread, without a
server and without a database, and one line of text is enough to repeat a run::

    python -m django_sessionstores.testing.simulation --exhaustive
    python -m django_sessionstores.testing.simulation --random 200000 --seed 1
    python -m django_sessionstores.testing.simulation --replay 'db own sync: 1:x.login.1 1* >1'

``scheduler`` switches between the requests. ``stores`` and ``database`` hold the stores that they
call, and ``site_storages`` puts the stores together. ``world`` is the site and ``handler`` handles
its requests. ``operations`` lists the actions of browsers and operators. ``model`` tells what they
may see, and ``programs`` runs one line. Only ``internals`` uses names of the package that are not
public. The simulation needs the extra ``simulation``.
"""
