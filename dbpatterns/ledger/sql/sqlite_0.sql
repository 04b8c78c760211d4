DROP TRIGGER IF EXISTS dbpatterns_ledger_entries_stay;

DROP TRIGGER IF EXISTS dbpatterns_ledger_entries_remain;

DROP TRIGGER IF EXISTS dbpatterns_ledger_transfers_stay;

DROP TRIGGER IF EXISTS dbpatterns_ledger_transfers_remain;

DROP TRIGGER IF EXISTS dbpatterns_ledger_accounts_begin;

DROP TRIGGER IF EXISTS dbpatterns_ledger_accounts_move;
