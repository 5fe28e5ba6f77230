// What a consent tool does: it asks once, remembers the answer, and tells sluice.js.
const banner = document.getElementById("consent");
const answer = localStorage.getItem("shop-consent");
banner.hidden = answer !== null;
for (const id of ["yes", "no"]) {
  document.getElementById(id).onclick = () => {
    localStorage.setItem("shop-consent", id);
    banner.hidden = true;
    window.sluice?.consent(id === "yes");
  };
}
