-- What the provider said last about the machine's near end.
alter table vms.vms add column notice text;
