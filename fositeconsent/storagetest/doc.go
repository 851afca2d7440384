// Package storagetest has what the author of a storage for fosite needs to test it:
// [Run], a conformance suite of what fosite v0.49's handlers expect of a storage, and
// of what is left to a storage although security depends on it. The interfaces say
// little of either.
//
// The package depends on the standard library and on fosite's root package only. It
// knows nothing of consent: with fositeconsent.Config.Consents no more is expected of a storage, since
// fositeconsent.Gate.TokenFactory refuses what rests on a consent that has ended.
//
// # What fosite's in-memory storage fails
//
// fosite/storage.MemoryStore is the example that most storages begin with. It has no
// transactions, no nonces and no explicit clock, and fails these tests of the suite:
//
//   - a stored request is independent of the object that it was stored from: the
//     object itself is kept, session and all, and fosite goes on to modify it.
//   - a returned request is the caller's to modify: the stored object is returned.
//   - the session that is passed with a code is filled with what is stored: it is
//     ignored; the first of fosite's two looks at a code's expiry sees none, and an expired
//     code is answered with invalid_request.
//   - an invalidated code cannot be invalidated again: it can.
//   - of many redemptions of one code one wins and only its tokens are stored: all win.
//   - a replay that races with the redemption leaves no live token: what the redemption
//     stores after the replay was answered stays.
//   - PKCE data outlive a failed verifier: they are deleted before the verifier is looked
//     at, and a second attempt without any succeeds where PKCE is not enforced.
//   - a revocation ends every access token of a request: only the last one that was stored.
//   - a revocation ends every refresh token of a request: only the last one that was stored.
//   - a rotated refresh token cannot be rotated again: it can.
//   - a revoked refresh token cannot be rotated: it can.
//   - a rotation for another request is refused and changes nothing: the other request's
//     tokens are revoked; the signature is not looked at.
//   - a rotation of an unknown refresh token is refused and changes nothing: the request's
//     tokens are revoked.
//   - of many rotations of one refresh token one wins and only its tokens are stored: all win.
//   - a revocation that races with a rotation leaves no live token: what the rotation stores
//     after the revocation stays.
//   - a pushed request stays readable although it is deleted: it is gone when the user
//     comes back from signing in.
//   - a pushed request that has expired is refused: its expiry is not looked at.
//   - a pushed request is kept without the credentials of its client: with them.
//   - a write whose context has ended is an error and changes nothing: contexts are ignored.
//   - a read whose context has ended is no answer: contexts are ignored.
package storagetest
