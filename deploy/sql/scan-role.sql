-- A role that may connect and read, and nothing else: all that `keyrotation scan` needs. For psql, as a superuser or as
-- the owner of the tables; write your own names for scanner, clinic (the database) and public (each schema), and give it
-- a password by \password, so that none stands in a file.
CREATE ROLE scanner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
GRANT CONNECT ON DATABASE clinic TO scanner;
GRANT USAGE ON SCHEMA public TO scanner;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO scanner;
