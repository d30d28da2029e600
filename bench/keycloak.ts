/** What the makers of Keycloak tell their users to reckon with, for comparison. */
const source = 'https://www.keycloak.org/high-availability/single-cluster/concepts-memory-and-cpu-sizing'

/** By the second and vCPU. */
export const keycloak = {
  name: 'Keycloak, as published',
  about: `Keycloak's figures are [its own sizing](${source}), by the second and vCPU.`,
  logins: 15,
  refreshes: 120,
}
