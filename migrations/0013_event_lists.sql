-- Events of one sort, newest first, without reading all the others: the console lists those about volumes, of which there are few.

create index events_about on vms.events (split_part(kind, '.', 1), id);
