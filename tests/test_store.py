def test_fixture(database): assert database.check() == []
def test_url(postgres_url):
    print(postgres_url)
