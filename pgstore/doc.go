// Package pgstore keeps consent grants, consents and the log of decisions in Postgres, 14 or later.
//
//	if err := pgstore.Migrate(ctx, pool, pgstore.Config{}); err != nil { … }
//	store, err := pgstore.New(pool, pgstore.Config{})
//	gate, err := fositeconsent.NewGate(store, fositeconsent.Config{Consents: store, Decisions: store, …})
//
//	sweeper, err := pgstore.NewSweeper(pool, pgstore.SweeperConfig{})
//	go sweeper.Run(ctx)
//
// # Guarantees and what they need
//
// One statement, and so one round trip, creates a grant, and one consumes it. Among any
// number of consumers one wins, and each of the others learns exactly why not, by a second
// statement if it had to wait. A grant that is minted and consumed in one transaction
// ([Transactions]) is one INSERT of both.
//
// Whoever issues a response locks the grant, and then the consents that it rests on, until the end
// of the transaction that stores what is issued. A revocation changes them in the same order, and
// so waits for those that came before, and for no other; then it looks what was issued. Who
// comes after it is refused; also where the grant was consumed before, and its response is recorded
// in another transaction, not later than ten minutes after the grant's end. The sweeper here
// deletes no consents; that of fositestore does.
//
// The database's clock decides, at the moment at which the statement began: who
// came in time and then had to wait for another transaction, which was rolled back,
// still came in time.
//
// A grant is spent durably when the transaction that spent it is. Do not set
// synchronous_commit to off for the role: after a crash of the server, what it
// has acknowledged could be spent again. The same holds for the promotion of an
// asynchronous standby.
//
// On a [pgxpool.Pool], a call whose connection was lost runs its statement again, at
// most three times, and so learns what became of its first try. Inside a transaction
// (the [DB] is a pgx.Tx) and on a single connection nothing is ever repeated.
// After a failover, connections to a server that has become read-only return an
// error (25006): set target_session_attrs=read-write, and let the failover end old
// connections.
//
// The statements are right at every isolation level. Under REPEATABLE READ and
// SERIALIZABLE a loser gets Postgres's serialization failure (40001) instead of a
// reason when the winner committed after the loser's transaction began.
// Reasons then speak of the transaction's snapshot.
//
// Every way in which pgx runs statements will do. Behind PgBouncer in transaction mode
// use pgx's default (pgx.QueryExecModeCacheStatement) only from PgBouncer 1.21 on and
// with its max_prepared_statements set, and pgx.QueryExecModeDescribeExec never: it
// describes a statement in one round trip and runs it in another, which may find
// another client's statement in its place.
//
// No error holds a secret's hash, a binding or anything else of a row. The
// server's own log is another matter: log_statement, log_min_duration_statement
// and log_parameter_max_length_on_error decide what it shows of parameters, and in the
// simple protocol, where they are part of the statement, log_min_error_statement too,
// which is on by default. The hash of a secret is the most that there is to be seen.
//
// # Roles
//
// The role that migrates owns the tables. The one that serves requests needs less,
// and the one that sweeps can be a third:
//
//	GRANT USAGE ON SCHEMA public TO consent_server, consent_sweeper;
//	GRANT SELECT ON public.consent_migrations TO consent_server;
//	GRANT SELECT, INSERT, UPDATE (consumed_at, attempt, revoked_at) ON public.consent_grants TO consent_server;
//	GRANT SELECT, INSERT, UPDATE (revoked_at) ON public.consent_consents TO consent_server;
//	GRANT SELECT, INSERT ON public.consent_responses TO consent_server;
//	GRANT SELECT, INSERT ON public.consent_decisions TO consent_server;
//	GRANT SELECT, INSERT, UPDATE (answered_at, accepted, answer_digest, verifier_hash, answer, used_at, revoked_at) ON public.consent_requests TO consent_server;
//	GRANT SELECT (id, expires_at), DELETE, UPDATE (attempt) ON public.consent_grants TO consent_sweeper;
//	GRANT SELECT (id, expires_at), DELETE, UPDATE (used_at) ON public.consent_requests TO consent_sweeper;
//	GRANT SELECT (id, recorded_at), DELETE ON public.consent_decisions TO consent_sweeper;
//
// The server's role can neither delete a grant or a consent nor change what was decided, and to the log
// it can only add. Who erases a subject from that ([Store.EraseDecisions]) needs DELETE on it besides. The
// sweeper's UPDATE is what Postgres asks of whoever locks rows (SKIP LOCKED); it
// updates nothing, and a constraint keeps attempt empty where nothing was consumed.
// A server that sweeps as well needs DELETE besides.
package pgstore
