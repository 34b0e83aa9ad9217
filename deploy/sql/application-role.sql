-- What an application's role needs to report itself (`attest`); run by the role keyrotation, after `keyrotation init`.
-- Write your own name for pazpaz (the application's role), and for keyrotation what [database] schema has. It needs nothing else in this schema, and must not have more:
-- with these grants it can neither read nor change what another instance reported.
GRANT USAGE ON SCHEMA keyrotation TO pazpaz;
GRANT SELECT ON keyrotation.report_nonce TO pazpaz;
GRANT INSERT (instance, report, proofs) ON keyrotation.instance_reports TO pazpaz;
