DROP TRIGGER IF EXISTS dbpatterns_ledger_entries_stay ON dbpatterns_ledger_entry;

DROP TRIGGER IF EXISTS dbpatterns_ledger_entries_balance ON dbpatterns_ledger_entry;

DROP TRIGGER IF EXISTS dbpatterns_ledger_transfers_stay ON dbpatterns_ledger_transfer;

DROP TRIGGER IF EXISTS dbpatterns_ledger_accounts_begin ON dbpatterns_ledger_account;

DROP TRIGGER IF EXISTS dbpatterns_ledger_accounts_move ON dbpatterns_ledger_account;

DROP FUNCTION IF EXISTS dbpatterns_ledger_stay();

DROP FUNCTION IF EXISTS dbpatterns_ledger_balance();

DROP FUNCTION IF EXISTS dbpatterns_ledger_by_hand();

DROP FUNCTION IF EXISTS dbpatterns_ledger_move(
    bigint, bigint, bigint, text, text, boolean, interval, text, bigint);

DROP FUNCTION IF EXISTS dbpatterns_ledger_end(bigint, text, bigint);
