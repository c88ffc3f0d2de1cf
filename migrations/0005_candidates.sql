-- What the launch's present attempt asks for, in the provider's words: chosen before the first call, the same in every repetition.
alter table vms.launches add column candidate text;
