"""Who answers for what, as the seed procedure names the roles (section 1.3)."""

DATABASE_ADMINISTRATORS = "team:database-administrators"
SECURITY_OFFICERS = "team:security-officers"
SITE_RELIABILITY = "team:site-reliability"
COMPLIANCE_OFFICERS = "team:compliance-officers"
