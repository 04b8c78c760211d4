-- The guards raise SQLSTATEs of a class of their own: DL001 changed, DL002 unbalanced, DL003 by
-- hand. A refusal (too little money, say) is no error but the answer `refusal`, so that it does
-- not break the transaction it happens in.
--
-- They read single rows by their keys and keep their plans, so that a plan made while the tables
-- were small would read all of a table for ever after: none may read one from end to end.
CREATE OR REPLACE FUNCTION dbpatterns_ledger_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'dbpatterns_ledger_transfer' THEN
        -- Only `dbpatterns_ledger_end` sets the name, for the one transfer that it ends.
        IF OLD.status = 'pending' AND NEW.status <> 'pending'
            AND current_setting('dbpatterns_ledger.ending', true) = OLD.id::text
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the ledger does not % rows of %', lower(TG_OP), TG_TABLE_NAME
        USING ERRCODE = 'DL001', HINT = 'Correct a transfer by reversing it.';
END $$;

CREATE OR REPLACE FUNCTION dbpatterns_ledger_balance() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off AS $$
DECLARE
    wrong bigint;
BEGIN
    -- A subquery and not a join, which may hash the table of transfers.
    SELECT transfer_id INTO wrong FROM inserted AS entry
        GROUP BY transfer_id
        HAVING sum(amount) <> 0 OR count(*) <> 2 OR NOT coalesce(bool_and((
            SELECT account_id = source_id AND entry.amount = -posted_amount
                OR account_id = destination_id AND entry.amount = posted_amount
            FROM dbpatterns_ledger_transfer AS made WHERE made.id = entry.transfer_id
        )), false)
        LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the entries are not the two sides of transfer %, which sum to zero', wrong
            USING ERRCODE = 'DL002', HINT = 'Insert both sides of a transfer in one statement.';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION dbpatterns_ledger_by_hand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the money of account % changes by transfers only', NEW.id
        USING ERRCODE = 'DL003', HINT = 'Begin with zero, and call transfer().';
END $$;

CREATE TRIGGER dbpatterns_ledger_entries_stay
    BEFORE UPDATE OR DELETE ON dbpatterns_ledger_entry
    FOR EACH ROW EXECUTE FUNCTION dbpatterns_ledger_stay();

-- Per statement and not deferred: an entry without its other side is refused at once, and a
-- batch of thousands is checked by one query. It stands for foreign keys too, which would look
-- four times for each transfer: the two sides are accounts that the transfer refers to.
CREATE TRIGGER dbpatterns_ledger_entries_balance
    AFTER INSERT ON dbpatterns_ledger_entry
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION dbpatterns_ledger_balance();

CREATE TRIGGER dbpatterns_ledger_transfers_stay
    BEFORE UPDATE OR DELETE ON dbpatterns_ledger_transfer
    FOR EACH ROW EXECUTE FUNCTION dbpatterns_ledger_stay();

CREATE TRIGGER dbpatterns_ledger_accounts_begin
    BEFORE INSERT ON dbpatterns_ledger_account
    FOR EACH ROW
    WHEN (NEW.balance <> 0 OR NEW.version <> 0
        OR NEW.pending_debits <> 0 OR NEW.pending_credits <> 0)
    EXECUTE FUNCTION dbpatterns_ledger_by_hand();

CREATE TRIGGER dbpatterns_ledger_accounts_move
    BEFORE UPDATE ON dbpatterns_ledger_account
    FOR EACH ROW
    WHEN (NEW.version < OLD.version OR NEW.currency <> OLD.currency
        OR NEW.balance <> OLD.balance AND NEW.version = OLD.version)
    EXECUTE FUNCTION dbpatterns_ledger_by_hand();

CREATE OR REPLACE FUNCTION dbpatterns_ledger_move(
    p_source bigint,
    p_destination bigint,
    p_amount bigint,
    p_currency text DEFAULT NULL,
    p_key text DEFAULT '',
    p_pending boolean DEFAULT false,
    p_expires_in interval DEFAULT NULL,
    p_reference text DEFAULT '',
    p_reverses bigint DEFAULT NULL,
    OUT refusal text,
    OUT facts jsonb,
    OUT replay boolean,
    OUT made_id bigint,
    OUT made_currency text,
    -- Seconds, since Python takes ten times as long to read a timestamp.
    OUT made_at double precision,
    OUT made_until double precision
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    source dbpatterns_ledger_account;
    destination dbpatterns_ledger_account;
    made dbpatterns_ledger_transfer;
BEGIN
    replay := false;
    IF p_reverses IS NOT NULL THEN
        SELECT * INTO made FROM dbpatterns_ledger_transfer WHERE id = p_reverses;
        IF NOT FOUND THEN
            refusal := 'transfer-not-found';
            facts := jsonb_build_object('transfer', p_reverses);
            RETURN;
        ELSIF made.status <> 'posted' THEN
            refusal := 'not-posted';
            facts := jsonb_build_object('transfer', p_reverses, 'status', made.status);
            RETURN;
        END IF;
        p_source := made.destination_id;
        p_destination := made.source_id;
        p_amount := made.posted_amount;
        p_currency := made.currency;
    END IF;

    -- Both accounts are locked in the order of their ids, so that no two transfers wait for each
    -- other, and by statements of their own: what follows sees the rows as they are then, while
    -- one statement that locks and updates checks its limits on rows that may be out of date.
    IF p_source < p_destination THEN
        SELECT * INTO source FROM dbpatterns_ledger_account
            WHERE id = p_source FOR NO KEY UPDATE;
        SELECT * INTO destination FROM dbpatterns_ledger_account
            WHERE id = p_destination FOR NO KEY UPDATE;
    ELSE
        SELECT * INTO destination FROM dbpatterns_ledger_account
            WHERE id = p_destination FOR NO KEY UPDATE;
        SELECT * INTO source FROM dbpatterns_ledger_account
            WHERE id = p_source FOR NO KEY UPDATE;
    END IF;

    LOOP  -- again when somebody else's key or reversal was committed while the insert waited
        IF p_key <> '' THEN
            SELECT * INTO made FROM dbpatterns_ledger_transfer
                WHERE idempotency_key = p_key AND idempotency_key <> '';  -- the index's condition
            IF FOUND THEN
                replay := true;
                made_id := made.id;
                IF (made.source_id, made.destination_id, made.amount, made.reference)
                        <> (p_source, p_destination, p_amount, p_reference)
                    OR made.reverses_id IS DISTINCT FROM p_reverses
                    OR made.currency <> coalesce(p_currency, made.currency)
                    OR (made.status <> 'posted' OR made.ended_at IS NOT NULL) <> p_pending
                THEN
                    refusal := 'idempotency-conflict';
                    facts := jsonb_build_object('key', p_key, 'transfer', made.id);
                END IF;
                RETURN;
            END IF;
        END IF;
        IF p_reverses IS NOT NULL THEN
            SELECT * INTO made FROM dbpatterns_ledger_transfer WHERE reverses_id = p_reverses;
            IF FOUND THEN
                refusal := 'already-reversed';
                facts := jsonb_build_object('transfer', p_reverses, 'reversal', made.id);
                RETURN;
            END IF;
        END IF;

        made_currency := coalesce(p_currency, source.currency);
        IF source.id IS NULL OR destination.id IS NULL THEN
            refusal := 'account-not-found';
            facts := jsonb_build_object('account',
                CASE WHEN source.id IS NULL THEN p_source ELSE p_destination END);
        ELSIF source.closed_at IS NOT NULL OR destination.closed_at IS NOT NULL THEN
            refusal := 'account-closed';
            facts := jsonb_build_object('account',
                CASE WHEN source.closed_at IS NOT NULL THEN p_source ELSE p_destination END);
        ELSIF source.currency <> made_currency THEN
            refusal := 'currency-mismatch';
            facts := jsonb_build_object(
                'account', p_source, 'currency', source.currency, 'wanted', made_currency);
        ELSIF destination.currency <> made_currency THEN
            refusal := 'currency-mismatch';
            facts := jsonb_build_object(
                'account', p_destination, 'currency', destination.currency, 'wanted', made_currency);
        ELSIF source.balance::numeric - source.pending_debits - p_amount
            < coalesce(source.min_balance, -9223372036854775807)
        THEN
            refusal := 'insufficient-funds';
            facts := jsonb_build_object('account', p_source, 'amount', p_amount,
                'available', source.balance::numeric - source.pending_debits
                    - coalesce(source.min_balance, -9223372036854775807));
        ELSIF destination.balance::numeric + destination.pending_credits + p_amount
            > coalesce(destination.max_balance, 9223372036854775807)
        THEN
            refusal := 'limit-exceeded';
            facts := jsonb_build_object('account', p_destination, 'amount', p_amount,
                'room', coalesce(destination.max_balance, 9223372036854775807)::numeric
                    - destination.balance - destination.pending_credits);
        END IF;
        IF refusal IS NOT NULL THEN
            RETURN;
        END IF;

        INSERT INTO dbpatterns_ledger_transfer (
            source_id, destination_id, amount, posted_amount, currency, status, reference,
            idempotency_key, reverses_id, created_at, expires_at
        ) VALUES (
            p_source, p_destination, p_amount, CASE WHEN p_pending THEN 0 ELSE p_amount END,
            made_currency, CASE WHEN p_pending THEN 'pending' ELSE 'posted' END, p_reference,
            p_key, p_reverses, statement_timestamp(), statement_timestamp() + p_expires_in
        ) ON CONFLICT DO NOTHING
            RETURNING id, date_part('epoch', created_at), date_part('epoch', expires_at)
            INTO made_id, made_at, made_until;
        EXIT WHEN FOUND;
    END LOOP;

    IF p_pending THEN
        UPDATE dbpatterns_ledger_account
            SET pending_debits = source.pending_debits + p_amount WHERE id = p_source;
        UPDATE dbpatterns_ledger_account
            SET pending_credits = destination.pending_credits + p_amount WHERE id = p_destination;
        RETURN;
    END IF;
    -- One statement for both: each would read the table's constraints anew.
    UPDATE dbpatterns_ledger_account SET
        balance = CASE id WHEN p_source THEN source.balance - p_amount
            ELSE destination.balance + p_amount END,
        version = version + 1
        WHERE id IN (p_source, p_destination);
    INSERT INTO dbpatterns_ledger_entry (
        transfer_id, account_id, account_version, amount, balance_after
    ) VALUES
        (made_id, p_source, source.version + 1, -p_amount, source.balance - p_amount),
        (made_id, p_destination, destination.version + 1, p_amount,
            destination.balance + p_amount);
END $$;

CREATE OR REPLACE FUNCTION dbpatterns_ledger_end(
    p_transfer bigint,
    p_status text,
    p_amount bigint,
    OUT refusal text,
    OUT facts jsonb,
    OUT made dbpatterns_ledger_transfer
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    source dbpatterns_ledger_account;
    destination dbpatterns_ledger_account;
BEGIN
    SELECT * INTO made FROM dbpatterns_ledger_transfer WHERE id = p_transfer;
    IF NOT FOUND THEN
        refusal := 'transfer-not-found';
        facts := jsonb_build_object('transfer', p_transfer);
        RETURN;
    END IF;
    IF made.source_id < made.destination_id THEN
        SELECT * INTO source FROM dbpatterns_ledger_account
            WHERE id = made.source_id FOR NO KEY UPDATE;
        SELECT * INTO destination FROM dbpatterns_ledger_account
            WHERE id = made.destination_id FOR NO KEY UPDATE;
    ELSE
        SELECT * INTO destination FROM dbpatterns_ledger_account
            WHERE id = made.destination_id FOR NO KEY UPDATE;
        SELECT * INTO source FROM dbpatterns_ledger_account
            WHERE id = made.source_id FOR NO KEY UPDATE;
    END IF;
    -- The locks of the accounts guard the transfer too; it may have ended while we waited.
    SELECT * INTO made FROM dbpatterns_ledger_transfer WHERE id = p_transfer;
    IF made.status <> 'pending' THEN
        refusal := 'not-pending';
        facts := jsonb_build_object('transfer', made.id, 'status', made.status);
        RETURN;
    END IF;
    p_amount := CASE WHEN p_status = 'posted' THEN coalesce(p_amount, made.amount) ELSE 0 END;
    IF p_status = 'posted' THEN
        IF made.expires_at <= statement_timestamp() THEN
            refusal := 'pending-expired';
            facts := jsonb_build_object('transfer', made.id, 'expires_at', made.expires_at);
        ELSIF p_amount > made.amount THEN
            refusal := 'invalid-amount';
            facts := jsonb_build_object(
                'amount', p_amount, 'fault', 'too large', 'limit', made.amount);
        ELSIF source.closed_at IS NOT NULL OR destination.closed_at IS NOT NULL THEN
            refusal := 'account-closed';
            facts := jsonb_build_object('account',
                CASE WHEN source.closed_at IS NOT NULL THEN source.id ELSE destination.id END);
        END IF;
        IF refusal IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;

    PERFORM set_config('dbpatterns_ledger.ending', p_transfer::text, true);
    UPDATE dbpatterns_ledger_transfer
        SET status = p_status, posted_amount = p_amount, ended_at = statement_timestamp()
        WHERE id = p_transfer RETURNING * INTO made;
    UPDATE dbpatterns_ledger_account SET
        pending_debits = source.pending_debits - made.amount,
        balance = source.balance - p_amount,
        version = source.version + (p_amount > 0)::integer
        WHERE id = source.id;
    UPDATE dbpatterns_ledger_account SET
        pending_credits = destination.pending_credits - made.amount,
        balance = destination.balance + p_amount,
        version = destination.version + (p_amount > 0)::integer
        WHERE id = destination.id;
    IF p_amount > 0 THEN
        INSERT INTO dbpatterns_ledger_entry (
            transfer_id, account_id, account_version, amount, balance_after
        ) VALUES
            (made.id, source.id, source.version + 1, -p_amount, source.balance - p_amount),
            (made.id, destination.id, destination.version + 1, p_amount,
                destination.balance + p_amount);
    END IF;
END $$;
