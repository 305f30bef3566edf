"""Programs that have failed: each is a case that was found once, and must not come back.

The names say what went wrong. A program is added as the simulation prints it.
"""

from __future__ import annotations

from typing import Final

VISITOR: Final = "s1:x.put.base s1* >s1"
USER: Final = f"{VISITOR} s2:x.login.1 s2* >s2"
OTHER: Final = "t1:y.put.base t1* >t1 t2:y.login.1 t2* >t2"

PROGRAMS: Final = {
    "a flush with the old key ends nothing": (
        f"db own sync: {USER} +1001 1:x.read 1* 2:x.flush 2* >1 >2"
    ),
    "a deletion with the old key ends nothing": (
        f"memory own sync: {USER} +1001 1:x.read 1* 2:x.delete 2* >1 >2"
    ),
    "a migration that is rolled back signs out": (
        "db own sync +cookie: previous.x.1 1:x.read+404@atomic 1*"
    ),
    "a save after a rollback overwrites what another request saved": (
        f"db own sync: {USER} 1:x.put.a+save@again 1 1 1 2:x.put.b 2* 1*"
    ),
    "a change that was rolled back counts as saved": (
        f"cached_db own sync: {USER} 1:x.put.a+save@rollback 1*"
    ),
    "a login that is rolled back sets a cookie that leads nowhere": (
        f"db own sync: {VISITOR} 1:x.login.1+save+404@atomic 1*"
    ),
    "a new key that is rolled back sets a cookie that leads nowhere": (
        f"db own sync: {VISITOR} 1:x.cycle+save+404@atomic 1*"
    ),
    "a rotation undoes a logout in the registry": (
        f"cache_registry own sync: {USER} +1001 2:x.logout 2 2 2 1:x.read 1 1 1 1 1 2* 1* >2 >1"
    ),
    "a rotation undoes an end in the registry": (
        f"cache_registry own sync: {USER} +1001 1:x.read 1 1 1 1 1 2:o.end.x 2* 1*"
    ),
    "ending the others ends this one, which was rotated": (
        f"db own sync: {OTHER} {USER} +1001 1:x.others 1 2:x.read 2* 1* >1 >2"
    ),
    "a password change ends this session, which was rotated": (
        f"db own sync: {OTHER} {USER} +1001 1:x.password 1 2:x.read 2* 1* >1 >2"
    ),
    "a limit counts a session twice that is being rotated, and ends another": (
        f"db own sync +2step +limit: {OTHER} {USER} +1001 1:x.read 1 1 1 2:z.login.1 2* 1*"
    ),
    "a limit counts a session twice that is being rotated, and refuses a login": (
        f"db own sync +2step +refuse: {USER} +1001 1:x.read 1 1 1 2:z.login.1 2* 1*"
    ),
    "a login that was refused sets a cookie": (
        "memory django sync +refuse: 6:y.login.1 7:x.login.1+save 8:x.login.1+save 8 8"
    ),
    "a limit admits a session too many beside a second login": (
        "memory django async +refuse: 1:y.login.1 2:y.login.1 1* 4:x.login.1 4 4 4 >1 "
        "6:y.login.1+save 6*"
    ),
    "a poll beside a password change signs out": (
        f"db django sync: {USER} 1:x.password 1 1 1 1 2:x.poll 2* 1* >2 >1"
    ),
    "an old cookie is sent after a save in the view and a login in another tab": (
        f"db django sync: {VISITOR} 1:x.put.a+save 1 1 2:x.login.1 2* 1* >2 >1"
    ),
    "an old cookie is sent after a save of nothing and a login in another tab": (
        f"db django sync: {VISITOR} 1:x.save 1 1 2:x.login.1 2* 1* >2 >1"
    ),
    "an old cookie is sent again though the browser has it": (
        f"db own sync: {VISITOR} 1:x.put.b 1* 2:x.login.1 2* >2 >1"
    ),
    "a second try of a save overwrites what another request saved": (
        f"db own sync +merge: {USER} 1:x.retry.a 1 2:x.put.b.m 2* 1*"
    ),
    "an error of the view's own is answered as an outage that is over": (
        f"db own sync: {VISITOR} 1:x.recover 1 1- 1*"
    ),
    "a session that was loaded by hand times out": (
        f"db own sync +idle: {USER} +60000 1:x.load 1* +60000"
    ),
    "a new key for a session that was superseded makes another session": (
        f"db own sync: {USER} a:x.cycle b:x.cycle b* a* >b >a"
    ),
    "another user's login fails beside a login": (
        "cookie_registry django sync: 2:y.login.2 2* >2 6:y.login.1 8:y.login.1 8"
    ),
    "an end is told twice": f"memory own sync: {USER} 1:x.flush 2:o.end.x 2* 1*",
    "an end is told that did not happen": (
        f"memory own sync: {VISITOR} 1:x.login.1 1* 2:x.flush 2*"
    ),
    "an end is told that was rolled back": f"db own sync: {USER} 1:x.logout@rollback 1*",
    "a read is answered with an error beside a new key": (
        f"db django sync: {USER} +1001 1:x.read 1 2:x.cycle 2* 1*"
    ),
    "a save that raised is found in the session of a login": (
        f"cache_registry django sync: {VISITOR} +1001 1:x.login.1 2:x.put.b+save+error 2 2 2 1* 2*"
    ),
    "a write beside a login is not in the session": (
        f"memory django sync: {VISITOR} 1:x.login.1 1 2:x.cycle 2* >2 3:x.put.b 3* 1*"
    ),
    "three logins at once leave one session of two": (
        "cached_db own sync +limit +workers: 1:z.login.1 3:w.login.1 5:x.login.1 5 5 5"
    ),
    "a rotation whose answer was lost is undone, and the session is gone": (
        f"db own sync +2step: {USER} +1001 1:x.save 1 1 1~ 1* >1"
    ),
    "a rotation in the registry whose answer was lost is undone": (
        f"cache_registry own sync: {USER} +1001 1:x.save 1 1 1 1~ 1* >1"
    ),
    "a session is listed twice after an outage": (
        f"cache_registry own sync: {VISITOR} 1:x.cycle 1 1 1 1 1 1- 1* >1"
    ),
    "a logout that is rolled back loses what the cache had": (
        f"cache_registry own sync: {USER} 1:x.logout@rollback 1*"
    ),
    "a copy is served after a deactivation beside a logout": (
        "cached_db own async: 1:x.login.2 1* >1 2:o.deactivate.2 3:x.delete 3 2* 5:x.login.1 5*"
    ),
    "ending the others ends this one, which was read from a copy": (
        f"cached_db own sync: {OTHER} {USER} 1:x.cycle 1 1 1 2:x.others 2* 1*"
    ),
    "an end is told by the poll and by the password change": (
        f"cached_db own sync: {OTHER} {USER} 1:y.password 1 1 1 1 1 2:x.poll 2* 1*"
    ),
    "two password changes sign each other out": (
        "db own async: 2:y.login.1 2* >2 7:y.password 7 8:y.password 8*"
    ),
    "a change counts as saved that was rolled back without autocommit": (
        f"db own sync: {USER} 1:x.put.a+save@undone 1*"
    ),
    "a save without autocommit fails": f"cached_db own sync: {USER} 1:x.put.a+save@manual 1*",
    "a save fails after the first one was rolled back": "db own sync: 3:x.put.a+save@again",
    "a read beside a login fails after a move from cookies": (
        "db own async +cookie: previous.x.1 1:x.login.1 2:x.read"
    ),
    "an end during a migration is not told": (
        "memory own async +memory: previous.x.1 1:x.put.a 3:o.end.x 3"
    ),
    "a read during a migration meets an outage that there is not": (
        "memory django async +cookie: previous.x.1 1:x.read 2:x.read 1 3:o.end_all.1 2* 3 1 3"
    ),
    "a login that is rolled back with a migration signs the old key in": (
        "db own sync +memory: previous.x.0 1:x.login.1+save@rollback 1* >1 2:x.poll 2*"
    ),
    "an end of the session that a login was refused for is told after a rollback": (
        "cached_db own sync +refuse +workers: 8:y.login.1 9:z.login.2 10:w.login.1+save@rollback "
        "8* 9* 10* >9 11:z.login.1+save@rollback 12:o.deactivate.2"
    ),
    "an end by an id whose tombstone has expired is answered as none": (
        f"cache django sync +2step: {USER} +1001 1:x.put.b+save+error 1* +1001 2:o.end.x"
    ),
    "a cookie is sent for a key that was superseded after the data was saved": (
        "cache_registry own sync: 3:x.replace 3* >3 +30 4:x.cycle +30 5:x.replace 5 5 5 5 5 5"
    ),
    "a read is answered with an error after SECRET_KEY was changed": (
        "memory own sync +cookie: previous.x.1 4:x.read 5:x.put.b 5* 6:x.login.1 secret 4 6*"
    ),
    "a logout beside a login ends what the login began, and tells nobody": (
        "cache_registry django async: 1:x.put.b 1* >1 5:x.logout 6:x.login.2 5 6 5 6 5 6* >6 "
        "7:x.logout 7 7"
    ),
    "a session that was migrated during its end is ended, and nobody is told": (
        "memory own async +cookie: previous.x.1 1:x.others 2:o.delete_key.x 2"
    ),
    "a password change goes on with a session after a logout": (
        f"cache_registry own sync: {USER} 1:x.password 1 1 1 1 1 2:x.logout 2* 1* >1 >2"
    ),
    "a poll ends what a password change has just stored": (
        "cookie_registry django async: 1:y.login.1 1* >1 2:y.password 3:y.password 2 2 3* >3 "
        "4:y.password 4"
    ),
    "a tombstone of a session in its key leads to a session that there is not": (
        "cookie_registry own sync: 1:x.login.1 1* >1 2:x.password 2 2 2 3:x.password 2 3*"
    ),
    "a limit ends the record of a rotation that is refused": (
        "cache_registry own sync +2step +limit: 2:x.login.1 2* 3:x.login.1+save 3* "
        "4:x.login.1+save >2 5:x.cycle+save 5 6:x.cycle+save+404@atomic 5 5 4* 6*"
    ),
    "a login beside a new key loses what was saved before that": (
        "cookie_registry django async: 2:y.clear 2* >2 14:y.login.1 15:y.cycle 16:y.put.a+404 14 "
        "16* 15*"
    ),
    "a cookie is sent after a save in the view and a logout in another tab": (
        "cookie_registry own async: 3:x.login.1 3* >3 11:x.cycle+save 12:x.logout 11 12 11 12*"
    ),
    "a login joins a session that was rotated for age, and its old key leads there": (
        "db own async +limit: 11:x.login.1 11* >11 +1001 12:x.read 13:x.login.1 13 "
        "14:o.delete_key.x 12* 13* 14* 18:x.read"
    ),
    "a limit counts a session that is signed in again as another one beside it": (
        "cache own sync +limit: 1:x.login.1 1* 6:x.login.1 8:x.login.1 8 >1 9:x.login.1 6* 8 8 8 9*"
    ),
    "of two password changes the first is saved last": (
        f"cache_registry own sync: {USER} 1:x.password 1 2:x.password 2 2 2 2 1 1 1 2 2 2 2 1* 2*"
    ),
    "of two password changes in transactions the first is saved last": (
        "cached_db django sync +2step +workers: 4:x.login.1@atomic 4* >4 10:x.password@atomic 10 "
        "11:x.password@atomic 11 10 11 10 10 10 11* >11 15:x.password@atomic"
    ),
    "a session that was ended in part is migrated again, without what was saved since": (
        "cache own async +cookie: previous.x.1 5:x.put.a+save 6:y.cycle+save 5* 8:o.delete_key.x "
        "8 away.cache"
    ),
    "the lock of a user is left in a cache after a purge of the registry, and keeps logins out": (
        "cache_registry own async +refuse: 9:y.login.1 10:w.login.1 10 10 11:w.login.1 12:o.purge "
        "10 12 11*"
    ),
    "what was merged in a transaction that is rolled back is taken for a change of one's own": (
        "cached_db django sync +refuse +workers: 9:x.login.1+save@rollback 9* >9 "
        "13:x.login.1+save@rollback 13 13 13 13 16:x.login.1 17:x.put.a 13 17* 16* >16 "
        "18:x.put.a+404 18* 19:x.read"
    ),
    "a login goes on without what was saved before its session has got two new keys": (
        "cookie_registry own async +limit +workers: 2:x.cycle 2* >2 7:x.cycle 9:x.put.a.b "
        "10:x.login.1 10 9* 7* >7 11:x.cycle 11*"
    ),
    "a session that is rotated and migrated is not ended": (
        "cache_registry own async +cookie: 7:x.login.1 7* >7 10:y.login.1+save 10* >10 +1001 "
        "11:y.password 12:x.put.b 12 12 12 12 12"
    ),
    "a migration in a transaction takes over from another one, which overwrites it": (
        "cache_registry own sync +cookie +workers: previous.x.1 1:x.put.b+save+404@atomic "
        "4:x.cycle 4 4"
    ),
    "a registry does not follow a login that has joined another request's key": (
        "cache_registry django async +cookie +workers: previous.x.1 2:x.load 2* 5:x.login.1 "
        "6:x.cycle 6 6 6 5 6 5* 9:o.end.x"
    ),
    "a login beside a new key of an anonymous session in its cookie leaves that one behind": (
        "cookie_registry django async +2step +workers: 2:y.put.a.b 2* >2 5:y.cycle 7:y.login.1 7 "
        "5* >5 9:y.put.a.b"
    ),
    "a rotation whose answer was lost leaves a record beside an end, and counts for a limit": (
        "cache django sync +2step +refuse: 1:z.login.1+save 1* 2:x.login.1+save 2* >2 +1001 "
        "5:o.end.x 6:x.drop.a 6 6 5* 6~ 9:x.login.1"
    ),
    "a login is answered first that has joined the new key of another request": (
        "db django async +workers: 1:x.login.1 1* >1 2:x.login.1 3:x.login.1 3 2* >2 5:x.cycle 5 5 "
        "14:o.end_all.1"
    ),
    "a login is answered first that has joined the new key of another login": (
        "cached_db django sync +2step +cookie: previous.x.1 1:x.login.1 2:x.login.1 2 2 2 1* >1 "
        "10:x.login.1 10 10 10 10 10"
    ),
    "a login has joined the new key of a session that another login began from its own": (
        f"db own sync: {USER} 1:x.login.1 2:x.login.1 2 1* >1 3:x.put.a 3* 4:x.cycle+save 4 4"
    ),
    "the same key is read before the request that has drawn it is answered": (
        f"db own sync: {USER} 1:x.login.1 2:x.login.1 2 1* >1 3:x.put.a 3* 4:x.cycle+save 4 4 2* "
        ">2 5:x.read 5*"
    ),
    "a cache loses a tombstone before an older copy arrives": (
        "cached_db django async +2step: 1:x.clear 1* >1 3:x.put.a 3 3 3 6:x.cycle 6* 7:x.read evict"
    ),
    "a session gets another key while a login looks which of those in the list are lost": (
        "cache_registry django sync +2step +refuse +workers: 5:x.login.1 5* 9:x.login.1 "
        "10:x.login.1 9* 10 10 >9 10 10 13:x.password+404@atomic 10 10 10 10 13*"
    ),
    "a cache loses a newer copy before an older one arrives": (
        "cached_db own sync +2step +workers: 5:x.put.a 5* >5 +61 6:x.put.a 8:x.put.a+save@undone "
        "6 6 8* evict 6 9:x.read 9*"
    ),
    "a login as another user beside one of the same user that has joined a new key": (
        "memory django sync +workers: 3:x.login.2 3* >3 5:x.login.1 6:x.login.2 7:x.cycle+save 6 5 "
        "7* 6*"
    ),
    "the same in a cookie": (
        "cookie_registry django async +2step: 1:x.login.2 1* >1 2:x.cycle 3:x.login.1 4:x.login.2 "
        "4 3 2* 4*"
    ),
    "a login under the previous SECRET_KEY has joined one under the new key": (
        "cache_registry own sync +2step: 9:y.put.b 9* >9 13:y.login.1 13 13 13 secret 18:y.login.1 "
        "18* >18 19:y.login.1+save@rollback"
    ),
    "a request that has found the password changed has not told the cache yet": (
        "cached_db own async +memory +workers: 5:y.login.1+save 5* >5 7:y.password 8:x.login.1 8* "
        "7 7 7 >8 11:x.poll 7 11 11 11 11 7* 12:x.login.1 12*"
    ),
    "of two passwords that are set in transactions, the one that was stored last stays": (
        "db own sync +cookie: previous.x.1 1:x.password@atomic 2:y.login.1 1 2* >2 "
        "4:y.password@atomic 4 1 1 4 4 4 1* >1 4* 8:x.login.1"
    ),
    "a clock that is ahead gives a session a key, and the old key is deleted by another server": (
        "cookie_registry own async: 7:x.replace 7* >7 9:x.cycle+save skew.9.40 9* 15:o.delete_key.x"
    ),
    "a login as another user ends the session of a login beside it, whose first one is ahead": (
        "cached_db django sync +refuse: 3:x.login.2 skew.3.40 3* >3 6:x.login.1 7:x.login.2 7 7 7 7"
    ),
    "a login with a password that is changed before its session is read signs out": (
        f"db own sync: {USER} 1:x.password 2:x.login.1.first 2 1* 2* >1 >2"
    ),
    "the same in a cookie, under Django's middleware": (
        f"cookie_registry django async: {USER} 1:x.password 2:x.login.1.first 2 1* 2* >1 >2"
    ),
    "a second login under the key before the first one begins another session": (
        f"db own sync: {USER} 1:x.login.1 2:x.login.1 1* 2* >1 >2"
    ),
    "the same in a cookie, which holds the data": (
        f"cookie_registry django async: {USER} 1:x.login.1 2:x.login.1.first 1* 2* >2 >1"
    ),
    "the same in a cache": f"cached_db own async: {USER} 1:x.login.1 2:x.login.1 1* 2* >2 >1",
    "the answer to the first of two logins is lost, and the second has joined it": (
        "cache django async +memory +workers: previous.x.1 1:x.login.1.first 1 1 1 1 1 1 1~ "
        "8:x.login.1.first"
    ),
    "a clock is set back during a login, and a logout beside a new password ends nothing": (
        "db own sync +workers: 2:x.login.1 2 skew.2.-40 2* >2 10:x.password 15:x.logout@atomic 15"
    ),
    "an end beside a rotation is told with an id that nobody gets": (
        "cache_registry own async +refuse: 8:x.login.1 8* >8 9:o.end_all.1 10:x.cycle 10 10 10"
    ),
    "an end beside two rotations at once is told with an id that nobody gets": (
        f"cache_registry own sync: {USER} +1001 1:x.read 2:x.read 2 2 2 1* 3:o.end_all.1 2 3*"
    ),
    "a limit tells the end of a session with the id of a rotation that fails": (
        "cache_registry own sync +limit: 1:y.login.1 1* >1 2:z.login.1 2* +1001 6:y.read 6 6 6 6 "
        "8:x.login.1 8* 6*"
    ),
    "the same in a store that rotates in two steps": (
        "db own sync +limit +2step: 1:y.login.1 1* >1 2:z.login.1 2* +1001 6:y.read 6 6 6 "
        "8:x.login.1 8* 6*"
    ),
    "a session that began beside a new password, which is rolled back, is kept by a login": (
        "cached_db own sync +limit: 4:x.login.1 4* 7:x.login.1 >4 9:x.password+404@atomic 7 9 9 9 "
        "9 7* >7 9* 16:x.put.b+save+error 18:x.login.1"
    ),
    "a limit ends the session that a second login would continue": (
        "db own async +limit +workers: 5:y.login.1 5* >5 12:y.login.1 13:x.login.1+save "
        "14:z.login.1 15:y.login.1"
    ),
    "a login as another user replaces a session that has got a new key, and is ended": (
        "cookie_registry own async +workers: 2:x.login.1 2* >2 6:x.login.2.first 7:x.password 7* "
        ">7 6 12:o.deactivate.2 12*"
    ),
    "two logins at once have different secrets, and one lock": (
        "cache_registry own sync +refuse +workers: 3:x.login.1 5:x.login.1 5* 8:x.login.1 8 8 8 8 "
        "8 12:x.drop.a 12! 8 secret 8 8 8"
    ),
    "a key is unknown that was rotated on an error page, and the store has no room": (
        "cache_registry django async: 4:x.login.1 4* >4 +1001 15:x.put.b+save+error 15* +1001 "
        "16:x.save full.cache"
    ),
    "a key is unknown whose session a limit has ended, and the store has no room": (
        "db django async +limit: 1:x.login.1 1* >1 2:y.login.1 2* >2 3:z.login.1 3* +1001 4:x.save "
        "full.database"
    ),
    "a page that removes what is not there is due for another key beside a new one": (
        f"memory own sync: {USER} +1001 1:x.poll 1 2:x.cycle 2* 1*"
    ),
    "a save that is due stores a change that was dismissed": (
        f"db own async: {USER} +1001 1:x.dismiss.a 1* >1 2:x.read"
    ),
    "a limit refuses the second of two logins that would share one session": (
        f"cached_db own sync +refuse: {VISITOR} 1:y.login.1 1* 2:x.login.1 2 3:x.login.1 3 2* 3*"
    ),
    "a login under a superseded key begins another session, which is ended": (
        "cache_registry django async: 5:x.login.1 5* >5 8:x.cycle+save 9:x.login.1 8* 9* >8 >9 "
        "11:o.end.x"
    ),
    "the same after a move, and beside a new password": (
        "db django async +memory +workers: previous.x.1 3:x.password 3 4:x.cycle+save 3 3 "
        "6:x.login.1+save 4* 6 6 6"
    ),
    "of two sessions with keys of each other, one is the parent": (
        "cache_registry own sync +cookie: previous.x.1 1:x.password 2:x.login.1 2 1 1* 2 3:x.clear "
        "3 4:x.login.1 4 >1 4 3 2 2 5:x.login.1 4 4 5 4 >3 5 4 5 skew.5.-40 6:x.password 6 6 5 6 2 "
        "5 6 6 2 2* 6 >2 7:x.cycle+save 6 6 7 7 >4 7 6 5 7 6 7* 8:x.visit.1 6 5 >5 9:x.cycle 9 8 8 "
        "6 8* >8 10:x.login.1 >7 10 6 6 10 10 9 10* 6 11:x.password 9 9 6 9 6 >10 6* 9*"
    ),
    "an end removes the entry of a migration, and another request migrates once more": (
        "cache_registry own sync +cookie +workers: previous.x.1 1:x.flush 2:x.read 2 2 1 "
        "3:x.put.a+404 1 1 1 3* 1 4:x.visit.2+error@atomic 2* 4*"
    ),
    "a login under a superseded key continues the session of a third login beside it": (
        "cached_db own sync +cookie +workers: previous.x.1 1:x.read 2:x.login.1 1* 2* >1 >2 +1001 "
        "3:x.login.1 3* >3 +30 4:x.poll 5:x.login.1 5* 4 4* 6:x.login.1.first 6 >5 "
        "7:x.login.1.first >4 6 8:x.login.1.first 6 7 6 7 7 6 7 6 6 6* 7* 8* >6 >7 >8 9:x.read"
    ),
    "a login stores its session once more, and an end of it in a transaction commits then": (
        "cache_registry django sync: 2:y.login.1 2* >2 9:z.put.a+save@again 9* >9 11:z.login.1 11 "
        "11 11 11 13:z.login.1 11 14:y.others@atomic 14 14 14 13* 14 14 14"
    ),
    "a login that is rolled back begins a session with the data that it was merged with": (
        "cached_db own sync +memory: previous.x.1 2:x.login.1 2* 5:x.login.1 "
        "6:x.login.1+save@rollback >2 8:x.cycle+save+404@atomic 8 8 5* 8*"
    ),
    "a login that is rolled back takes what it was merged with for a change of its own": (
        f"db own sync: {USER} 1:x.login.1 2:x.login.1+save@rollback 1* >1 2 2 2 2 3:x.put.base 3 3 "
        "2 2 2 3* 2*"
    ),
    "a rotation that fails ends the session of a login that has joined it": (
        "cache_registry django sync: 1:x.login.1 1* >1 2:x.login.1 3:x.login.1 2 2 2 2 2 2 3* "
        "4:o.delete_key.x 4* 2* >3 5:x.read"
    ),
    "the same by an end in a transaction that commits then, and the next end is not told": (
        "cache_registry django sync: 10:x.login.1 10* >10 12:x.login.1 13:x.login.1 "
        "14:o.delete_key.x@atomic 14 12* >13 16:o.delete_key.x@atomic"
    ),
    "an end by the id before two rotations ends nothing, as the first one is not done": (
        f"cache_registry own sync: {USER} +1001 1:x.read 1 1 1 1 1 2:x.cycle 2* 3:o.end.x 3*"
    ),
    "the same beside a tombstone for a previous backend": (
        "cache_registry own sync +memory: previous.x.1 2:x.read 2* >2 +1001 1:x.read 1 1 1 1 1 "
        "3:x.cycle 3* 4:o.end.x 4*"
    ),
    "an end by the key before two rotations is told, and ends nothing": (
        f"cache_registry own sync: {USER} +1001 1:x.read 1 1 1 1 1 2:x.cycle 2* 3:x.flush 3*"
    ),
    "an end in a transaction ends nothing, as the session is rotated twice until it commits": (
        f"cache_registry own sync: {USER} +1001 1:x.read 1 1 3:o.end.x@atomic 1 1 1 2:x.cycle 2* 3*"
    ),
    "an end in a transaction is told with the id of a rotation that fails beside another one": (
        f"cache_registry own sync: {USER} +1001 1:x.read 1 1 1 1 3:o.end_all.1@atomic 3 2:x.cycle "
        "2* 3*"
    ),
    "an end is not told whose rotation was not done when it began": (
        f"cache_registry own sync: {USER} +1001 1:x.read 1 1 1 1 3:o.end_all.1 3 3 3 1* 3*"
    ),
    "an end is told with the id of a rotation whose session has ended a moment ago": (
        f"cache_registry own sync: {USER} 1:x.password 1 1 1 1 1 1 1 1 1 2:x.login.1 2* "
        "3:o.end_all.1 3*"
    ),
    "one end is told for a login that has joined a rotation and for the session before": (
        "cache_registry own sync: s2:x.login.1 s2* >s2 1:x.login.1 1 1 1 1 1 1 2:x.login.1 2* "
        "3:o.end_all.1 3*"
    ),
    "an end beside a login is told with the id of an entry that the login gives up": (
        "cache_registry django sync +memory: previous.x.1 3:z.login.1 3* 4:y.login.1 4 4 4 "
        "7:x.password 7*"
    ),
    "the end of a session is told with the id of a rotation in two steps that fails": (
        "memory django async +2step +workers: 3:x.login.1+save 3* >3 4:z.login.1+save 4* >4 +1001 "
        "8:z.read 8 9:z.login.1+save 8 10:x.others 9* 8 10*"
    ),
    "a logout in a transaction ends nothing, as the session is rotated twice until it commits": (
        "cache_registry own sync +cookie: s2:x.login.1 s2* >s2 +1001 1:x.password 2:x.put.b 2 "
        "3:x.logout@atomic 3 2 2 2 2 3*"
    ),
    "the same by an operator": (
        "cache_registry own sync +cookie: s2:x.login.1 s2* >s2 +1001 1:x.password 1 2:x.put.b 2 1 "
        "2 2 3:o.end.x@atomic 2 2 3*"
    ),
    "an end is told with the id after one that no signal has named": (
        "cache_registry django sync: s2:x.login.1 s2* >s2 +1001 1:x.read 1 1 1 1 3:x.logout 3 1 "
        "2:x.cycle 2 3 3 2 3 2 2 2 2"
    ),
    "a login that has joined one that fails goes with it, as it was the earlier one": (
        "cache_registry own sync +memory: previous.x.1 s2:x.read s2* 1:x.login.1 1 1 1 2:x.login.1 "
        "2 3:x.logout@atomic 2 2 3 2 2 2 3*"
    ),
    "an end by the old id is told after an end by an id of which a rotation has half": (
        "cache_registry django async: s1:x.login.1 s1* >s1 +1001 a:x.put.a b:x.save c:x.delete a a "
        "a a a d:o.end_all.1 c b* d*"
    ),
    "an operator ends a session that has ended by an id of which a rotation has half": (
        "cache_registry own sync: s1:x.login.1 s1* >s1 +1001 a:x.put.a a a a a a c:x.logout c* "
        "d:o.end.x@rollback d*"
    ),
    "of two ends, one is told with the id of a rotation that fails": (
        "cache_registry django async: s1:x.login.1 s1* >s1 a:x.cycle d:o.end.x d a a a a c:o.end.x "
        "d d d d c*"
    ),
    "a save under a key that nobody was given yet, and that is superseded, stores nothing": (
        "cache_registry own async: s1:x.login.1 s1* >s1 +1001 a:x.put.a d:x.cycle a a a a a "
        "b:x.save d* b*"
    ),
    "a password change joins a login whose session before ends": (
        "cache_registry own async: s1:x.login.1 s1* >s1 a:x.login.1 b:x.password b a a a a a a "
        "c:o.end.x b c* b*"
    ),
    "a password change joins a login whose session before has ended by then": (
        "cache_registry own async: t1:y.login.1 t1* >t1 s1:x.login.1 s1* >s1 a:x.login.1 "
        "d:x.logout b:x.password b a a a a a c:y.others d c c a c b* d*"
    ),
    "a login as another user replaces a session of whose rotation a registry has half": (
        "cache_registry django async: s1:x.login.1 s1* >s1 +1001 a:x.read a a a a a b:x.login.2 b* "
        "c:o.end.x c*"
    ),
    "the others end with the id of a login that is not stored yet, and gets another one": (
        "cache_registry own async: t1:y.login.1 t1* >t1 s1:x.put.base s1* >s1 a:x.cycle "
        "b:x.login.1 b a a a b c:y.others b b b c*"
    ),
    "an operator ends the id of a login that is not stored yet, and gets another one": (
        "cache_registry own sync: s1:x.put.base s1* >s1 a:x.cycle b:x.login.1 b b b b b "
        "c:o.end_all.1 c*"
    ),
    "a cookie is sent for a login that another one has joined, and that has ended": (
        "cache_registry own async: t1:y.login.1 t1* >t1 s1:x.put.base s1* >s1 a:x.login.1 "
        "b:x.login.1 b c:y.others a a a a a a b* c*"
    ),
    "a logout after a new password hides that its session had got another id": (
        "cache_registry own async: s1:x.login.1 s1* >s1 a:x.password c:x.logout c c a a a a a a a "
        "a a c b:x.cycle b b* c c c* a a*"
    ),
    "a new session ends while it is stored again after a rollback, and draws another key": (
        "cache_registry own sync: 3:y.login.1+save@rollback 3 3 3 3 3 7:o.end_all.1 7 7"
    ),
    "a full registry lists a session under another user": (
        "cache_registry own async +limit +workers: 1:y.login.2 1* >1 3:z.replace 3* >3 "
        "18:z.login.2 full.registry 20:y.password"
    ),
    "a rotation in two steps stores a session again that has ended since": (
        "cache_registry own sync +2step: t1:y.login.1 t1* >t1 s1:x.login.1 s1* >s1 a:x.login.1 "
        "b:x.login.1 c:y.others a a a a a a b* c*"
    ),
    "the same while a transaction that has ended it commits": (
        "cache_registry own sync +2step: s1:x.login.1 s1* >s1 +1001 a:x.put.a a a a a a "
        "c:x.logout@atomic c c c c"
    ),
    "an old key is sent last that was registered by the request that has rotated it on": (
        "cache_registry django sync: s1:x.login.1 s1* >s1 +1001 d:x.password b:x.read b b b b"
    ),
    "a session ends in the middle of a rotation, and its old key begins another one": (
        "cache_registry django sync: s1:x.login.1 s1* >s1 a:x.cycle d:x.login.2 d a a a d* "
        "b:x.cycle"
    ),
    "a rotation in two steps that is tried again is listed for a moment, and ended once more": (
        "cache_registry own async +2step: s1:x.login.1 s1* >s1 a:x.cycle a a a a d:o.deactivate.1 "
        "d d d d d d b:x.cycle b b b b a b a a a a a a c:o.end.x c c a c* a a a*"
    ),
    "the data of a session stays after an end in a transaction, as its entry has another version": (
        "cache_registry own sync +memory: previous.x.1 s1:x.read s1* a:x.password "
        "c:x.logout@atomic c a a a a a a a a a d:o.delete_key.x b:x.login.2 b c b d* b* c*"
    ),
    "a session is found outdated beside its new password, and has got another key for its age": (
        "cache_registry django sync: s1:x.login.1 s1* >s1 +1001 a:x.put.a d:x.password d a a a a d "
        "d d d b:x.password b* d*"
    ),
    "the commit removes the data of a login whose rotation failed, and that is stored by then": (
        "cache_registry django sync +refuse: 2:x.clear 2* >2 5:x.login.1+save@manual 5 5 5 5 "
        "9:x.login.1+save@manual 9*"
    ),
    "a rotation in a transaction is told that a session has ended which has got another id": (
        "cache_registry django sync: 3:z.login.1 3* >3 +1001 11:z.put.a+save@undone 11 11 11 11 "
        "12:z.put.a+save@undone 12*"
    ),
    "the entry is removed of a rotation in two steps that another request has done meanwhile": (
        "cache_registry own sync +2step +memory: previous.x.1 s1:x.read s1* a:x.login.1 d:x.put.a "
        "a a a a a d* a a a a a c:o.end.x a c*"
    ),
    "a session ends in which another request saves, as an answer is lost while it is migrated": (
        "cache_registry own sync +memory: previous.x.1 2:x.drop.a 2 2 4:x.put.a+404 2 2~ 4 4"
    ),
    "a session is saved while it ends, and another request has found its entry gone": (
        "cache_registry django async +2step: t1:y.login.1 t1* >t1 s1:x.login.1 s1* >s1 b:x.put.b "
        "d:y.others c:x.delete b b c d*"
    ),
    "a flush tells the end of a session that had expired": (
        "cache_registry own sync: s1:x.login.1 s1* >s1 +2419200 1:x.flush 1*"
    ),
    "an operator tells the end of a session that had expired": (
        "memory django async: s1:x.login.1 s1* >s1 +2419200 1:o.delete_key.x 1*"
    ),
    "the id of a rotation in two steps is found in a list after the session has ended": (
        "cache_registry django sync +2step: t1:y.login.1 t1* >t1 s1:x.login.1 s1* >s1 a:x.put.a a* "
        "b:x.cycle b b b b c:y.others c* d:o.end_all.1 b d*"
    ),
    "a copy under the old key shows a session that has ended under its new one": (
        "cached_db django async: s1:x.login.1 s1* >s1 a:x.cycle a a a c:o.end_all.1 c* b:x.put.b b*"
    ),
    "a copy shows a session that has ended while the request that ended it tells the cache": (
        "cached_db own sync: s1:x.login.1 s1* >s1 a:o.end_all.1 a a c:o.end_all.1 c* b:x.read b*"
    ),
    "the same by a request that has found a new password": (
        "cached_db own sync: s1:x.login.1 s1* >s1 b:x.poll b a:x.password a a a a b b b "
        "b c:o.end_all.1 c* d:x.read d*"
    ),
    "a tombstone in the cache hides a session that a rotation in two steps has stored again": (
        "cached_db own sync +2step: t1:y.login.1 t1* >t1 s1:x.put.base s1* >s1 a:x.login.1 "
        "b:x.login.1 b a* b b b b c:y.others c*"
    ),
    "an older copy comes after an end that was rolled back, and has an outdated login": (
        "cached_db own sync +memory: previous.x.1 s1:x.read s1* a:x.cycle b:x.password a a a "
        "c:o.end.x@rollback b* c*"
    ),
    "the same without a previous backend, and a change is lost": (
        "cached_db own sync: s1:x.login.1 s1* >s1 +1001 a:x.read d:x.put.a d d d a a a a d* "
        "c:x.flush@rollback c*"
    ),
    "an end follows a rotation to the id under which a login is stored then": (
        "cached_db own async: s1:x.login.1 s1* >s1 a:x.cycle b:x.login.1 b b c:o.delete_key.x a a "
        "a c b c c b b c b b b c* b*"
    ),
    "a save under a key that nobody was given yet, and that another rotation has superseded": (
        "cached_db own async: s1:x.login.1 s1* >s1 +1001 a:x.read b:x.cycle b b b a a a a b b b "
        "d:x.save b b b d*"
    ),
    "a cookie is sent again that only a copy shows, as the cache could not be told of the end": (
        "cached_db own sync +workers: 5:x.login.2 6:x.login.1.first 6* >6 +1001 7:x.load "
        "8:x.login.2 cut.0 9:x.drop.a"
    ),
    "data of a migration that is rolled back is found under another one's entry": (
        "cache_registry django sync +memory: previous.x.1 2:x.visit.2@rollback 3:x.login.1 3 3 "
        "5:x.put.a.b 2* 3 5*"
    ),
    "a process dies between a deletion in the database and the word to the cache": (
        "cached_db own sync +workers: s1:x.login.1 s1* >s1 a:x.delete a a! c:o.end_all.1 c* "
        "d:y.read d* b:x.read b*"
    ),
    "an old id leads to the session of a login that was saved after a later login": (
        "cached_db django async +memory +workers: previous.x.1 2:x.login.1+save 3:x.login.1 2* 3* "
        ">3 7:x.login.1 7* >7 11:x.login.1+save >2 13:x.login.1 11 11 13* >13 11* 18:o.end.x"
    ),
    "a migration is withdrawn that another request has found, as an answer and a read fail": (
        "cache_registry django sync +memory: previous.x.1 1:x.read 1 1 1 1~ 2:x.put.a 2* 1- 1* "
        "3:x.read"
    ),
}
