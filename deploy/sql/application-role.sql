-- What an application's role needs to report itself (`attest`); run by the role keyrotation, after `keyrotation init`.
-- Write your own name for pazpaz (the application's role). It needs nothing else in this schema.
GRANT USAGE ON SCHEMA keyrotation TO pazpaz;
GRANT SELECT, INSERT, UPDATE, DELETE ON keyrotation.application_instances TO pazpaz;
